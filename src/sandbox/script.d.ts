/** A TypeScript file and what it imports, built as one classic script (vite.config.ts). */
declare module '*?script' {
  const text: string;
  export default text;
}
