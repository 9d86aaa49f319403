/** Texts with placeholders: "Move number {n} up", or with a plural, "{n} picture|{n} pictures". */

/** English texts and their translations into another language. */
export type Catalogue = Readonly<Record<string, string>>;

export type Values = Readonly<Record<string, string | number>>;

/** The names of a text's placeholders. */
export type Places<Text extends string> = Named<Text> | (Text extends `${string}|${string}` ? 'n' : never);
type Named<Text extends string> = Text extends `${string}{${infer Name}}${infer Rest}` ? Name | Named<Rest> : never;

export const PLACE = /\{(\w+)\}/g;

/** The text with its values filled in. If it has two forms, `values.n` chooses between them. */
export function fill(text: string, values: Values, tag: string): string {
  const [one, other = one] = text.split('|');
  const form = one !== other && new Intl.PluralRules(tag).select(Number(values.n)) !== 'one' ? other : one;
  return form.replace(PLACE, (place, name: string) => {
    const value = values[name] ?? place;
    return typeof value === 'number' ? plainNumber(value, tag) : value;
  });
}

function plainNumber(value: number, tag: string): string {
  return value.toLocaleString(tag, { useGrouping: false, maximumFractionDigits: 20 });
}
