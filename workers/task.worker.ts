/** The worker for jobs that do not use the graph engine, whose runtime it never loads. */
import { serve } from './connection.ts';
import { TaskRunner } from './task_runner.ts';

void serve(new TaskRunner(), self);
