/** Servers on other machines that the environment names: `COMFYUI_URL`, `OPENAI_API_KEY` and so on (docs/engines.md). */
import { Failure } from './failure.js';

/**
 * @typedef {import('../src/core/remote.ts').EngineFacts} EngineFacts
 * @typedef {{ engine: string, address: string, settings: Record<string, string>, key: string | null }} NamedServer
 */

/**
 * Several addresses of one engine stand in one variable, with spaces or commas between, and have the same key.
 * @param {readonly EngineFacts[]} engines
 * @param {Record<string, string | undefined>} environment
 * @param {(typed: string) => Promise<string>} readAddress completes one, or throws
 * @returns {Promise<NamedServer[]>}
 */
export async function serversIn(engines, environment, readAddress) {
  /** @type {NamedServer[]} */
  const servers = [];
  for (const facts of engines) {
    const [place, secret] = variablesOf(facts).map((names) => names.find((name) => (environment[name] ?? '') !== ''));
    const key = (secret && environment[secret]?.trim()) || null;
    if (key !== null && !/^[\x21-\x7e]+$/.test(key)) {
      throw new Failure(
        'invalid_operation',
        `${secret} is no key: it may hold neither spaces nor letters with accents.`,
      );
    }
    const typed = (place && environment[place]?.split(/[\s,]+/).filter((word) => word !== '')) || [];
    const addresses = await Promise.all(typed.map(readAddress)).catch((/** @type {Error} */ { message }) => {
      throw new Failure('invalid_operation', `${place}: ${message}`);
    });
    // Elsewhere a key says nothing of which server it is for.
    const meant = addresses.length === 0 && key !== null && facts.key === 'required' ? [facts.address] : addresses;
    const settings = Object.fromEntries(
      facts.settings.flatMap(({ id }) => {
        const value = environment[`${facts.id}_${id}`.toUpperCase()];
        return value ? [[id, value]] : [];
      }),
    );
    servers.push(...[...new Set(meant)].map((address) => ({ engine: facts.id, address, settings, key })));
  }
  return servers;
}

/**
 * @param {readonly EngineFacts[]} engines that an operation needs
 * @param {readonly NamedServer[]} servers
 * @param {(sentence: string) => void} say
 * @throws {Failure} `invalid_operation` for an engine without a server, with the variable to set
 */
export function checkServers(engines, servers, say) {
  for (const facts of engines) {
    const own = servers.filter(({ engine }) => engine === facts.id);
    const [[url], [secret]] = variablesOf(facts);
    const needsKey = facts.key === 'required';
    if (own.length === 0) {
      throw new Failure(
        'invalid_operation',
        needsKey
          ? `This is made by ${facts.label.en}; set the environment variable ${secret} to your key.`
          : `This is made by ${facts.label.en}; set the environment variable ${url} to its address, such as ${facts.address}.`,
      );
    }
    own.forEach(({ address }) => say(`${address}: ${facts.leaves}`));
  }
}

/**
 * @param {EngineFacts} facts
 * @returns {[string[], string[]]} names of the variables for its addresses and its key; the first one set counts
 */
function variablesOf({ id, variables = id.toUpperCase() }) {
  return [[`${variables}_URL`, `${variables}_BASE_URL`], [`${variables}_API_KEY`]];
}
