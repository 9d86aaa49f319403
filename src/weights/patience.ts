/**
 * Waits for at most so many milliseconds.
 * @returns null when it has not come by then; it is not stopped, and what it throws later is nobody's
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
