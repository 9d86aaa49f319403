/**
 * ComfyUI: `prompt` and `workflow` in PNG text and in the tags of video and sound files; in WebP and JPEG in the EXIF fields Model and
 * Make, and in further ones below these, each as `name:{json}`. Other nodes and sites write one JSON with both, or the nodes alone, into
 * the EXIF comment or description, a comment tag, or `extra_data`.
 */
import { readComfyui, type GraphText } from '../comfyui/reading.ts';
import { isObject, own, readJsonObject } from '../json.ts';
import type { Metadata } from '../metadata.ts';
import type { Tool } from '../reading.ts';

/** Keywords of texts that contain both. */
const WRAPPERS = ['extra_data', 'extra_pnginfo', 'comment', 'description', 'generation_data'];

interface Found {
  prompt: GraphText;
  workflow: GraphText;
}

export const tool: Tool = {
  name: 'ComfyUI',
  turn: 'shared',
  read(metadata) {
    const { texts } = metadata;
    const keyed = (name: string) => [...texts].find(([key]) => key.toLowerCase() === name)?.[1] ?? null;
    const found: Found = { prompt: keyed('prompt'), workflow: keyed('workflow') };
    for (const text of others(metadata)) {
      const more = unwrapped(text);
      found.prompt ??= more.prompt;
      found.workflow ??= more.workflow;
    }
    return readComfyui(found.prompt, found.workflow);
  },
};

/** In search order. */
function* others({ texts, exif, comment }: Metadata): Generator<string> {
  for (const [key, text] of texts) {
    if (WRAPPERS.includes(key.toLowerCase())) {
      yield text;
    }
  }
  // From Model downward, as ComfyUI counts; then the comment and what else there is.
  yield* [...exif].sort(([a], [b]) => b - a).map(([, text]) => text);
  if (comment !== null) {
    yield comment;
  }
}

function unwrapped(text: string): Found {
  const [start, name] = /^\s*(prompt|workflow)\s*:\s*(?=\{)/i.exec(text) ?? [''];
  const content = text.slice(start.length);
  if (!content.trimStart().startsWith('{')) {
    return { prompt: null, workflow: null };
  }
  if (name !== undefined) {
    return name.toLowerCase() === 'prompt' ? { prompt: content, workflow: null } : { prompt: null, workflow: content };
  }
  const json = readJsonObject(content);
  const data = own(json, 'extra_data');
  const info = own(isObject(data) ? data : json, 'extra_pnginfo') ?? json;
  const prompt = graphText(own(json, 'prompt')) ?? graphText(own(info, 'prompt')) ?? graphText(own(data, 'prompt'));
  const workflow =
    graphText(own(info, 'workflow')) ?? graphText(own(data, 'workflow')) ?? graphText(own(json, 'workflow'));
  return prompt === null && workflow === null ? { prompt: json, workflow: null } : { prompt, workflow };
}

/** A graph in a field of an object: itself, or as text. */
function graphText(value: unknown): GraphText {
  return isObject(value) || (typeof value === 'string' && value.trimStart().startsWith('{')) ? value : null;
}
