/** What is told of a job outside of the page: all of it, except that a picture of its operation is told by type and size. */
import type { Job } from '../core/job.ts';
import { withoutPictures } from '../core/operation.ts';

export function jobReport(job: Job): Job {
  return {
    ...job,
    operation: withoutPictures(job.operation),
    offer: job.offer && { ...job.offer, operation: withoutPictures(job.offer.operation) },
  };
}
