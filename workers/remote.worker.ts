/**
 * The worker for jobs with a step on another machine. What it may reach is in the policy of its own response: the addresses that the person
 * entered, which stand in the address of this script (`cli/headers.js`), and nothing else; the page's own policy knows none of them.
 *
 * It holds nothing itself: whatever is loaded later would import what it shares with this file from the address without those origins, as a
 * second module with a second owner.
 */
await import('./remote_runner.ts');

export {};
