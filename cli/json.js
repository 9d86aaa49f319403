/** Handwritten JSON: reports line, column and kind of an error. */

/** What may follow a backslash; `u` takes four hexadecimal digits. */
const ESCAPES = '"\\/bfnrtu';

/**
 * Like `JSON.parse`, whose messages only sometimes give a position, differently in every version of Node.
 * @param {string} text without a byte order mark
 * @returns {unknown}
 * @throws {SyntaxError} with a message such as `line 3, column 5: a comma or "}" is expected`
 */
export function parseJson(text) {
  try {
    return /** @type {unknown} */ (JSON.parse(text));
  } catch (cause) {
    const fault = findFault(text);
    throw fault ? new SyntaxError(`${placeOf(text, fault.at)}: ${fault.what}`, { cause }) : cause;
  }
}

/**
 * The line and column of an offset, both from 1; a line ends with LF, CR or both.
 * @param {string} text
 * @param {number} offset
 */
export function placeOf(text, offset) {
  const lines = text.slice(0, offset).split(/\r\n|\r|\n/);
  return `line ${lines.length}, column ${(lines.at(-1)?.length ?? 0) + 1}`;
}

/**
 * The first character that JSON's grammar (RFC 8259) does not allow, or the end of the text if something is missing.
 * @param {string} text
 * @returns {{ at: number, what: string } | null} null for valid JSON
 */
export function findFault(text) {
  /** @type {('{' | '[')[]} what is open, from the outside in */
  const open = [];
  let at = skipSpace(text, 0);
  /** @type {'value' | 'element' | 'element or end' | 'name' | 'name or end' | 'separator'} */
  let expected = 'value';
  for (;;) {
    const character = text[at];
    const inside = open.at(-1);
    const end = inside === '{' ? '}' : ']';
    if (expected === 'separator' && inside === undefined) {
      return at < text.length ? { at, what: 'nothing may follow the end of the JSON' } : null;
    }
    if (character === undefined) {
      return { at, what: inside ? `the file ends before its last "${end}"` : 'the file is empty' };
    }
    if (character === end && inside && (expected === 'separator' || expected.endsWith('or end'))) {
      open.pop();
      expected = 'separator';
      at = skipSpace(text, at + 1);
    } else if (expected === 'separator') {
      if (character !== ',') {
        return { at, what: remark(text, at) ?? `a comma or "${end}" is expected` };
      }
      expected = inside === '{' ? 'name' : 'element';
      at = skipSpace(text, at + 1);
    } else if (character === end && (expected === 'name' || expected === 'element')) {
      return { at, what: `there is a comma before "${end}"` };
    } else if (expected.startsWith('name')) {
      if (character !== '"') {
        return { at, what: remark(text, at) ?? 'a name in double quotes is expected' };
      }
      const name = skipString(text, at);
      if (name.what !== undefined) {
        return name;
      }
      at = skipSpace(text, name.at);
      if (text[at] !== ':') {
        return { at, what: at < text.length ? 'a colon is expected' : 'the file ends before its last "}"' };
      }
      expected = 'value';
      at = skipSpace(text, at + 1);
    } else if (character === '{' || character === '[') {
      open.push(character);
      expected = character === '{' ? 'name or end' : 'element or end';
      at = skipSpace(text, at + 1);
    } else {
      const value = skipScalar(text, at);
      if (value.what !== undefined) {
        return value;
      }
      expected = 'separator';
      at = skipSpace(text, value.at);
    }
  }
}

/**
 * Mistakes that come from other languages.
 * @param {string} text
 * @param {number} at
 */
function remark(text, at) {
  if (/^["'\u2018-\u201f]/.test(text[at])) {
    return text[at] === '"' ? undefined : 'texts stand in straight double quotes (")';
  }
  return text[at] === '#' || /^\/[/*]/.test(text.slice(at, at + 2)) ? 'JSON has no comments' : undefined;
}

/**
 * @param {string} text
 * @param {number} at
 */
function skipSpace(text, at) {
  while (at < text.length && ' \t\r\n'.includes(text[at])) {
    at++;
  }
  return at;
}

/** @typedef {{ at: number, what?: undefined } | { at: number, what: string }} Skipped where it ends, or where and what its fault is */

/**
 * A text, a number or a word.
 * @param {string} text
 * @param {number} at where it begins
 * @returns {Skipped}
 */
function skipScalar(text, at) {
  if (text[at] === '"') {
    return skipString(text, at);
  }
  if (text[at] === '-' || isDigit(text[at])) {
    return skipNumber(text, at);
  }
  for (const word of ['true', 'false', 'null']) {
    if (text[at] === word[0]) {
      const wrong = [...word].findIndex((letter, i) => text[at + i] !== letter);
      return wrong < 0 ? { at: at + word.length } : { at: at + wrong, what: `"${word}" is misspelt` };
    }
  }
  return {
    at,
    what: remark(text, at) ?? 'a value is expected: a text in double quotes, a number, true, false or null',
  };
}

/**
 * @param {string} text
 * @param {number} at its opening quote
 * @returns {Skipped}
 */
function skipString(text, at) {
  for (let i = at + 1; i < text.length; i++) {
    if (text[i] === '"') {
      return { at: i + 1 };
    }
    if (text[i] < ' ') {
      return {
        at: i,
        what: 'a text may not go over a line\'s end or hold a tab; write \\n or \\t, or close it with "',
      };
    }
    if (text[i] === '\\') {
      i++;
      if (i < text.length && !ESCAPES.includes(text[i])) {
        return { at: i, what: 'a backslash is written twice, as in "C:\\\\pictures"' };
      }
      for (let digits = text[i] === 'u' ? 4 : 0; digits > 0; digits--) {
        i++;
        if (i < text.length && !/[0-9a-fA-F]/.test(text[i])) {
          return { at: i, what: '\\u is followed by four hexadecimal digits' };
        }
      }
    }
  }
  return { at: text.length, what: `the text that begins at ${placeOf(text, at)} is never closed with "` };
}

/**
 * @param {string} text
 * @param {number} at
 * @returns {Skipped}
 */
function skipNumber(text, at) {
  const digits = () => {
    const start = at;
    while (isDigit(text[at])) {
      at++;
    }
    return at > start;
  };
  at += text[at] === '-' ? 1 : 0;
  if (text[at] === '0') {
    at++;
    if (isDigit(text[at])) {
      return { at, what: 'a number may not begin with 0' };
    }
  } else if (!digits()) {
    return { at, what: 'a digit is expected' };
  }
  if (text[at] === '.') {
    at++;
    if (!digits()) {
      return { at, what: 'a digit is expected after the decimal point' };
    }
  }
  if (text[at] === 'e' || text[at] === 'E') {
    at++;
    at += text[at] === '+' || text[at] === '-' ? 1 : 0;
    if (!digits()) {
      return { at, what: 'a digit is expected in the exponent' };
    }
  }
  return { at };
}

/** @param {string | undefined} character */
function isDigit(character) {
  return character !== undefined && character >= '0' && character <= '9';
}
