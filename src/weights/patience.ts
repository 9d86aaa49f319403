/**
 * Waits for at most the given milliseconds.
 * @returns null on timeout; the work is not stopped, and its later errors are ignored
 */
export async function within<T>(milliseconds: number, promise: Promise<T>): Promise<T | null> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const over = new Promise<null>((give) => {
    timer = setTimeout(give, milliseconds, null);
  });
  try {
    return await Promise.race([promise, over]);
  } finally {
    clearTimeout(timer);
  }
}
