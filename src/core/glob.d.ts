/** The one form of Vite's glob import that core code uses; core is compiled without Vite's own types. */
interface ImportMeta {
  glob<T>(pattern: string, options: { eager: true }): Record<string, T>;
}
