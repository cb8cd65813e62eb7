// BullMQ: a queue of jobs on streams, sorted sets and scripts.
import assert from 'node:assert/strict';
import { FlowProducer, Queue, QueueEvents, Worker } from 'bullmq';

const connection = { host: process.env.REDIS_HOST, port: Number(process.env.REDIS_PORT), password: process.env.REDIS_PASSWORD, maxRetriesPerRequest: null };
const queue = new Queue('numbers', { connection });
const events = new QueueEvents('numbers', { connection });
await events.waitUntilReady();
const worker = new Worker('numbers', async job => {
  if (job.name === 'flaky' && job.attemptsMade < 2) throw new Error('not yet');
  if (job.name === 'bad') throw new Error('never');
  return job.data.n * 2;
}, { connection, concurrency: 5 });

const jobs = await queue.addBulk(Array.from({ length: 20 }, (_, n) => ({ name: 'double', data: { n } })));
const later = await queue.add('double', { n: 100 }, { delay: 300 });
const flaky = await queue.add('flaky', { n: 7 }, { attempts: 3, backoff: { type: 'fixed', delay: 50 } });
const bad = await queue.add('bad', { n: 1 });
const urgent = await queue.add('double', { n: 1 }, { priority: 1 });
const done = await Promise.all(jobs.map(job => job.waitUntilFinished(events, 30000)));
assert.deepEqual(done, Array.from({ length: 20 }, (_, n) => n * 2));
assert.equal(await later.waitUntilFinished(events, 30000), 200);
assert.equal(await flaky.waitUntilFinished(events, 30000), 14);
assert.equal(await urgent.waitUntilFinished(events, 30000), 2);
await assert.rejects(bad.waitUntilFinished(events, 30000), /never/);
const flow = await new FlowProducer({ connection }).add({ name: 'double', queueName: 'numbers', data: { n: 5 }, children: [{ name: 'double', queueName: 'numbers', data: { n: 1 } }] });
assert.equal(await flow.job.waitUntilFinished(events, 30000), 10);
const counts = await queue.getJobCounts('completed', 'failed', 'waiting', 'delayed');
assert.deepEqual([counts.completed, counts.failed, counts.waiting, counts.delayed], [25, 1, 0, 0]);
await worker.close();
await queue.obliterate({ force: true });
console.log('BullMQ works');
process.exit(0);
