/**
 * XMP, as far as it contains settings: one value is looked up by name; nothing else in the XML is interpreted.
 * Reference: ISO 16684-1; the label of origin is IPTC's "Digital Source Type".
 */
const SOURCE_TYPE = 'http://cv.iptc.org/newscodes/digitalsourcetype/';
const ENTITIES: Record<string, string> = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" };

export const XMP_DARKROOM = 'darkroom:settings';

/**
 * @param xmp a packet from anywhere
 * @param name with the prefix that its writers use, such as `exif:UserComment`
 * @returns the text of the attribute or element; null if there is none
 */
export function xmpValue(xmp: string, name: string): string | null {
  const element = xmp.indexOf(`<${name}`);
  if (element >= 0) {
    const start = xmp.indexOf('>', element) + 1;
    const end = xmp.indexOf(`</${name}>`, element);
    if (start > 0 && end >= start) {
      return unescape(withoutTags(xmp.slice(start, end))).trim();
    }
  }
  const attribute = new RegExp(`\\s${name}\\s?=\\s?(["'])`).exec(xmp);
  if (attribute) {
    const start = attribute.index + attribute[0].length;
    const end = xmp.indexOf(attribute[1], start);
    return end < 0 ? null : unescape(xmp.slice(start, end));
  }
  return null;
}

/** @param darkroom our JSON, ASCII only; null = only the label of origin */
export function writeXmp({ darkroom, isComposite }: { darkroom: string | null; isComposite: boolean }): string {
  const source = `${SOURCE_TYPE}${isComposite ? 'compositeWithTrainedAlgorithmicMedia' : 'trainedAlgorithmicMedia'}`;
  const settings = darkroom === null ? '' : `<${XMP_DARKROOM}>${escape(darkroom)}</${XMP_DARKROOM}>`;
  return [
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>',
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">',
    '<rdf:Description rdf:about="" xmlns:darkroom="urn:darkroom:" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">',
    `<Iptc4xmpExt:DigitalSourceType>${source}</Iptc4xmpExt:DigitalSourceType>${settings}`,
    '</rdf:Description></rdf:RDF></x:xmpmeta>',
    '<?xpacket end="w"?>',
  ].join('\n');
}

function withoutTags(xml: string): string {
  return xml.replace(/<[^<>]*>/g, '');
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

function unescape(xml: string): string {
  return xml.replace(
    /&(?:#(\d{1,7})|#x([0-9a-fA-F]{1,6})|(\w{2,4}));/g,
    (whole, decimal?: string, hex?: string, name?: string) => {
      if (name !== undefined) {
        return Object.hasOwn(ENTITIES, name) ? ENTITIES[name] : whole;
      }
      const point = decimal === undefined ? parseInt(hex ?? '', 16) : parseInt(decimal, 10);
      return point <= 0x10ffff ? String.fromCodePoint(point) : whole;
    },
  );
}
