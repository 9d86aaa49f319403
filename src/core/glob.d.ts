/** The one form of Vite's glob import that the core uses; it is compiled without Vite's types. */
interface ImportMeta {
  glob<T>(pattern: string, options: { eager: true }): Record<string, T>;
}
