/** Writes bits in order, highest first. */
export class BitWriter {
  #bytes = new Uint8Array(1 << 14);
  #length = 0;
  /** Fewer than eight. */
  #pending = 0;
  #count = 0;

  /** @param value its lowest `bits` bits are written, 0 to 32 of them */
  write(value: number, bits: number): void {
    if (bits > 16) {
      this.write(value >>> 16, bits - 16);
      this.write(value, 16);
      return;
    }
    // Seven bits may wait, so that 23 are held at most.
    this.#pending = (this.#pending << bits) | (value & ((1 << bits) - 1));
    this.#count += bits;
    while (this.#count >= 8) {
      this.#count -= 8;
      this.#push((this.#pending >>> this.#count) & 0xff);
    }
    this.#pending &= (1 << this.#count) - 1;
  }

  /** Writes this many zeros, then a one. */
  unary(zeros: number): void {
    for (let left = zeros; left > 0; left -= 32) {
      this.write(0, Math.min(32, left));
    }
    this.write(1, 1);
  }

  /** The bytes so far; an unfinished byte is padded with zeros. */
  bytes(): Uint8Array<ArrayBuffer> {
    const whole = this.#bytes.slice(0, this.#length + (this.#count > 0 ? 1 : 0));
    if (this.#count > 0) {
      whole[this.#length] = this.#pending << (8 - this.#count);
    }
    return whole;
  }

  #push(byte: number): void {
    if (this.#length === this.#bytes.length) {
      const larger = new Uint8Array(2 * this.#bytes.length);
      larger.set(this.#bytes);
      this.#bytes = larger;
    }
    this.#bytes[this.#length++] = byte;
  }
}
