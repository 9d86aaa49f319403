/** The worker for jobs without a checkpoint of the graph engine, whose runtime is not loaded here. */
import { serve } from './connection.ts';
import { TaskRunner } from './task_runner.ts';

void serve(new TaskRunner(), self);
