/** Exchanges the ticket behind the # for a session and goes on to the page. */
const said = document.getElementById("said") as HTMLElement;
const ticket = location.hash.slice(1);
// It is spent from here on, and has no business in the history.
history.replaceState(null, "", "/open");

const response = await fetch("/v1/session", {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ ticket }),
});
if (response.ok) location.replace("/generate");
else said.textContent = "This address was used before, or is older than a minute. `waver open` prints a new one.";

export {};
