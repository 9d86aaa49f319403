/** A job as reported outside the page: complete, except that pictures in its operation are given by type and size. */
import type { Job } from '../core/job.ts';
import { withoutPictures } from '../core/operation.ts';

export function jobReport(job: Job): Job {
  return {
    ...job,
    operation: withoutPictures(job.operation),
    offer: job.offer && { ...job.offer, operation: withoutPictures(job.offer.operation) },
  };
}
