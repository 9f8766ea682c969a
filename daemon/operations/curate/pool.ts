/** Work on clips that overlaps: while one clip's frames are measured here, the next one's are decoded in a child. */
export const AT_ONCE = 2;

/** Results of `work` on every item, in order, with at most `width` at work. The first failure stops what has not begun. */
export async function eachAtOnce<T, R>(
  items: readonly T[],
  width: number,
  work: (item: T) => Promise<R>,
): Promise<R[]> {
  const results: R[] = new Array(items.length);
  let next = 0;
  let failed = false;
  const lane = async (): Promise<void> => {
    while (next < items.length && !failed) {
      const index = next++;
      try {
        results[index] = await work(items[index] as T);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const lanes = await Promise.allSettled(Array.from({ length: Math.min(width, items.length) }, lane));
  for (const each of lanes) if (each.status === "rejected") throw each.reason;
  return results;
}
