import { mount } from 'svelte';
import { readAddress } from './app/address.ts';
import { language } from './app/messages/messages.svelte.ts';
import './app/page.css';
import { readReturnedCode } from './app/returned_code.ts';
import { pageClient } from './jobs/bundled_workers.ts';
import { serveChannel } from './jobs/channel.ts';
import { exposeDoor } from './jobs/door.ts';
import type { AskEngine } from './jobs/engine_questions.ts';

const target = document.getElementById('page');
if (!target) {
  throw new Error('index.html has no element with the id "page".');
}
const address = readAddress(location.search);
readReturnedCode();
const client = pageClient();
// Before the door is open, so that whoever comes through it finds the backend that the address asks for.
const device = client.start(address);
device.catch(() => undefined);
const askEngine: AskEngine = async (type, asked) =>
  (await import('./jobs/engine_desk.ts')).answerEngine(client, type, asked);
exposeDoor(client, askEngine);
serveChannel(client.shared, undefined, askEngine);

if (address.door === 'cli') {
  const [{ default: Door }] = await Promise.all([import('./app/Door.svelte'), language.start()]);
  mount(Door, { target, props: { device } });
} else {
  const [{ default: App }, { Studio }, { Update }] = await Promise.all([
    import('./app/App.svelte'),
    import('./app/studio/studio.svelte.ts'),
    import('./app/update.svelte.ts'),
    language.start(),
  ]);
  mount(App, { target, props: { studio: new Studio(address, client), update: new Update() } });
}
