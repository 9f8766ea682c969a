/**
 * The hub's two routes that a download needs: what a revision holds, and the bytes of a file. Redirects are followed here, so
 * that the token never leaves the hub's own host.
 */
import { z } from "zod";
import { WaverError } from "../../plugins/errors.ts";

export interface HubOptions {
  /** `https://host`; HF_ENDPOINT, or the public hub. */
  readonly endpoint: string;
  readonly token?: string | undefined;
}

export interface HubFile {
  readonly path: string;
  readonly size: number;
  /** Of large files. */
  readonly sha256?: string;
  /** Of small ones: git's own digest, a SHA-1 over a header and the content. */
  readonly gitSha1?: string;
}

const Info = z.object({
  sha: z.string().regex(/^[0-9a-f]{40}$/),
  siblings: z.array(
    z.object({
      rfilename: z.string(),
      size: z.int().nonnegative(),
      blobId: z.string().nullish(),
      lfs: z.object({ sha256: z.string().regex(/^[0-9a-f]{64}$/) }).nullish(),
    }),
  ),
});

const HOPS = 5;

export class Hub {
  readonly #options: HubOptions;

  constructor(options: HubOptions) {
    this.#options = { ...options, endpoint: options.endpoint.replace(/\/+$/, "") };
  }

  /** The commit behind a revision and its files. */
  async revision(
    repository: string,
    revision: string,
    signal: AbortSignal,
  ): Promise<{ sha: string; files: HubFile[] }> {
    const path = `/api/models/${repository}/revision/${encodeURIComponent(revision)}?blobs=true`;
    const response = await this.get(path, {}, signal);
    if (!response.ok) throw refused(response.status, `${repository}@${revision}`);
    const info = Info.safeParse(await response.json().catch(() => null));
    if (!info.success)
      throw new WaverError("unreachable", `${this.#options.endpoint} answers, but not as a hub of models does`, {
        hint: "check HF_ENDPOINT",
      });
    const files = info.data.siblings.map(({ rfilename, size, blobId, lfs }): HubFile => {
      // A name is a path below the model's folder, or nothing is fetched at all.
      const parts = rfilename.split("/");
      if (
        /[\\\0]/.test(rfilename) ||
        parts.some((part) => part === "" || part === "." || part === ".." || part.length > 255)
      )
        throw new WaverError("invalid_input", `${repository} names a file that would lie outside its folder`);
      return {
        path: rfilename,
        size,
        ...(lfs ? { sha256: lfs.sha256 } : blobId ? { gitSha1: blobId } : {}),
      };
    });
    return { sha: info.data.sha, files };
  }

  /** The bytes of a file, or of a range of it. */
  file(
    repository: string,
    sha: string,
    path: string,
    headers: Record<string, string>,
    signal: AbortSignal,
  ): Promise<Response> {
    const encoded = path.split("/").map(encodeURIComponent).join("/");
    return this.get(`/${repository}/resolve/${sha}/${encoded}`, headers, signal);
  }

  async get(path: string, headers: Record<string, string>, signal: AbortSignal): Promise<Response> {
    const { endpoint, token } = this.#options;
    let url = new URL(endpoint + path);
    for (let hop = 0; hop <= HOPS; hop++) {
      const own = url.origin === new URL(endpoint).origin && token !== undefined;
      let response: Response;
      try {
        response = await fetch(url, {
          headers: { ...headers, "Accept-Encoding": "identity", ...(own ? { Authorization: `Bearer ${token}` } : {}) },
          redirect: "manual",
          signal,
        });
      } catch (error) {
        if (signal.aborted) throw signal.reason;
        throw unreachable(url, error);
      }
      const location = response.headers.get("location");
      if (response.status < 300 || response.status >= 400 || location === null) return response;
      await response.body?.cancel();
      const next = new URL(location, url);
      if (!["http:", "https:"].includes(next.protocol) || (url.protocol === "https:" && next.protocol !== "https:"))
        throw new WaverError("forbidden", `${url.host} sends the download to an address that is not safe to follow`);
      url = next;
    }
    throw new WaverError("unreachable", `${url.host} sends the download round in circles`);
  }
}

const unreachable = (url: URL, cause: unknown): WaverError =>
  new WaverError("unreachable", `${url.host} cannot be reached: this machine is offline, or the host is down`, {
    hint: "the same command goes on where it stopped; a mirror is set by HF_ENDPOINT; models that are here: waver models list",
    cause,
  });

export function refused(status: number, what: string): WaverError {
  if (status === 401 || status === 403)
    return new WaverError(
      "unauthorized",
      `the hub does not give ${what} to this user: it is not there, or it needs a token`,
      {
        hint: "accept the model's terms on its page, then set HF_TOKEN and restart the daemon (waver stop)",
      },
    );
  if (status === 404)
    return new WaverError("not_found", `the hub has no ${what}`, { hint: "check the spelling: hf:org/name@revision" });
  return new WaverError("unreachable", `the hub answered ${status} for ${what}`, {
    hint: "try again: the same command goes on where it stopped",
  });
}
