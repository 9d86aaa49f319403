/**
 * What media load when it is needed lies in the workers that record from the start: a result must not depend on whether its server still
 * answers when it is done.
 */
import '../src/formats/container.ts';
import '../src/media/audio/tags.ts';
import '../src/media/audio/wav.ts';
