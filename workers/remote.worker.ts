/**
 * The worker for jobs with a step on another machine. The policy of its own response limits it to the addresses the person entered, which
 * are part of this script's URL (`cli/headers.js`); the page's policy contains none of them.
 * The file itself holds no state: modules loaded later would import shared parts of it from the URL without those origins, as a second
 * instance with a second owner.
 */
await import('./remote_runner.ts');

export {};
