/** Vite's `?raw` imports, for the WGSL kernels. */
declare module '*.wgsl?raw' {
  const source: string;
  export default source;
}
