/**
 * A hub of models on loopback, with the routes of the public one: what a revision holds, files by commit, large ones by a
 * redirect to a second host that serves ranges. It can be slow, break off, and change its mind.
 */
import { createHash } from "node:crypto";

interface Stored {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly large: boolean;
}

export interface FakeHub extends AsyncDisposable {
  readonly url: string;
  readonly sha: string;
  /** Bytes of files that were sent so far, by path. */
  readonly sent: Map<string, number>;
  /** What the storage host was shown: it must never see a token. */
  readonly authorizations: string[];
  /** Ranges asked of the storage host. */
  readonly ranges: string[];
  /** Milliseconds between two chunks of 64 KiB. */
  delayMs: number;
  /** A connection is cut after so many bytes, this many times. */
  cuts: { after: number; times: number };
  /** One bit of every chunk is wrong. */
  corrupt: boolean;
  /** The storage host gives whole files only. */
  noRanges: boolean;
}

const CHUNK = 64 << 10;
/** Files from here on are large: git keeps a pointer, the storage host the content. */
const LARGE = 4096;

export function fakeHub(
  repository: string,
  files: Readonly<Record<string, Uint8Array>>,
  how: { token?: string } = {},
): FakeHub {
  const stored = new Map<string, Stored>(
    Object.entries(files).map(([path, bytes]) => [
      path,
      { bytes: new Uint8Array(bytes), large: bytes.length >= LARGE },
    ]),
  );
  const sha = createHash("sha1")
    .update(JSON.stringify([...stored.keys()]))
    .digest("hex");
  const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
  const gitSha1 = (bytes: Uint8Array): string =>
    createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");

  const body = (path: string, bytes: Uint8Array<ArrayBuffer>): ReadableStream<Uint8Array> => {
    let at = 0;
    let given = 0;
    return new ReadableStream({
      pull: async (controller) => {
        if (at >= bytes.length) return controller.close();
        if (hub.delayMs > 0) await Bun.sleep(hub.delayMs);
        if (hub.cuts.times > 0 && given >= hub.cuts.after) {
          hub.cuts.times--;
          return controller.error(new Error("cut"));
        }
        const chunk = bytes.slice(at, at + CHUNK);
        if (hub.corrupt) chunk[0] = (chunk[0] as number) ^ 1;
        at += chunk.length;
        given += chunk.length;
        hub.sent.set(path, (hub.sent.get(path) ?? 0) + chunk.length);
        controller.enqueue(chunk);
      },
    });
  };

  const storage = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: (request) => {
      const authorization = request.headers.get("authorization");
      if (authorization !== null) hub.authorizations.push(authorization);
      const path = decodeURIComponent(new URL(request.url).pathname.slice("/blobs/".length));
      const file = stored.get(path);
      if (file === undefined) return new Response(null, { status: 404 });
      const etag = `"${sha256(file.bytes)}"`;
      const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.get("range") ?? "");
      const condition = request.headers.get("if-range");
      const headers = { ETag: etag, "Accept-Ranges": "bytes" };
      if (hub.noRanges || range === null || (condition !== null && condition !== etag))
        return new Response(body(path, file.bytes), { headers });
      hub.ranges.push(`${path} ${range[1]}-${range[2]}`);
      const [from, to] = [Number(range[1]), Math.min(Number(range[2]), file.bytes.length - 1)];
      if (from > to) return new Response(null, { status: 416 });
      return new Response(body(path, file.bytes.slice(from, to + 1)), {
        status: 206,
        headers: { ...headers, "Content-Range": `bytes ${from}-${to}/${file.bytes.length}` },
      });
    },
  });

  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: (request) => {
      const { pathname, searchParams } = new URL(request.url);
      const allowed = how.token === undefined || request.headers.get("authorization") === `Bearer ${how.token}`;
      const info = new RegExp(`^/api/models/${repository}/revision/(.+)$`).exec(pathname);
      if (info !== null) {
        if (!allowed) return Response.json({ error: "Invalid username or password." }, { status: 401 });
        if (!["main", "v1", sha].includes(decodeURIComponent(info[1] as string)))
          return Response.json({ error: "Revision Not Found" }, { status: 404 });
        const siblings = [...stored].map(([rfilename, { bytes, large }]) => ({
          rfilename,
          ...(searchParams.get("blobs") === "true"
            ? {
                size: bytes.length,
                blobId: large ? gitSha1(Buffer.from("a pointer")) : gitSha1(bytes),
                ...(large ? { lfs: { sha256: sha256(bytes), size: bytes.length, pointerSize: 134 } } : {}),
              }
            : {}),
        }));
        return Response.json({ id: repository, sha, siblings });
      }
      const resolve = `/${repository}/resolve/${sha}/`;
      if (pathname.startsWith(resolve)) {
        if (!allowed) return new Response("Access to this resource is restricted", { status: 403 });
        const path = decodeURIComponent(pathname.slice(resolve.length));
        const file = stored.get(path);
        if (file === undefined) return new Response("Entry not found", { status: 404 });
        if (file.large) {
          const headers = {
            Location: `http://127.0.0.1:${storage.port}/blobs/${encodeURIComponent(path)}`,
            "X-Repo-Commit": sha,
            "X-Linked-Etag": `"${sha256(file.bytes)}"`,
            "X-Linked-Size": String(file.bytes.length),
          };
          return new Response(null, { status: 302, headers });
        }
        return new Response(body(path, file.bytes), { headers: { ETag: `"${gitSha1(file.bytes)}"` } });
      }
      return Response.json({ error: "Repository not found" }, { status: 404 });
    },
  });
  const hub: FakeHub = {
    url: `http://127.0.0.1:${server.port}`,
    sha,
    sent: new Map(),
    authorizations: [],
    ranges: [],
    delayMs: 0,
    cuts: { after: 0, times: 0 },
    corrupt: false,
    noRanges: false,
    [Symbol.asyncDispose]: async () => {
      await Promise.all([server.stop(true), storage.stop(true)]);
    },
  };
  return hub;
}
