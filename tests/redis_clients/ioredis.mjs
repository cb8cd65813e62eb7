// ioredis: what applications do with it.
import assert from 'node:assert/strict';
import Redis from 'ioredis';

const options = { host: process.env.REDIS_HOST, port: Number(process.env.REDIS_PORT), password: process.env.REDIS_PASSWORD };
const redis = new Redis(options);
const listener = new Redis(options);
redis.defineCommand('addIfThere', { numberOfKeys: 1, lua: "if redis.call('EXISTS', KEYS[1]) == 1 then return redis.call('INCRBY', KEYS[1], ARGV[1]) end" });

assert.equal(await redis.set('io:n', 1), 'OK');
assert.equal(await redis.addIfThere('io:n', 4), 5);
assert.equal(await redis.addIfThere('io:none', 4), null);
const pipeline = redis.pipeline();
for (let n = 0; n < 500; n++) pipeline.rpush('io:list', n);
assert.equal((await pipeline.exec()).at(-1)[1], 500);
assert.deepEqual(await redis.multi().incr('io:n').get('io:n').exec(), [[null, 6], [null, '6']]);
const heard = new Promise(resolve => listener.on('message', (channel, message) => resolve([channel, message])));
await listener.subscribe('io:news');
assert.equal(await redis.publish('io:news', 'hello'), 1);
assert.deepEqual(await heard, ['io:news', 'hello']);
await redis.hset('io:hash', { a: 1, b: 2 });
assert.deepEqual(await redis.hgetall('io:hash'), { a: '1', b: '2' });
const seen = [];
for await (const keys of redis.scanStream({ match: 'io:*' })) seen.push(...keys);
assert(seen.includes('io:list') && seen.includes('io:hash'));
const id = await redis.xadd('io:stream', '*', 'n', '1');
assert.deepEqual(await redis.xread('COUNT', 1, 'STREAMS', 'io:stream', '0'), [['io:stream', [[id, ['n', '1']]]]]);
await assert.rejects(redis.incr('io:list'), /WRONGTYPE/);
await Promise.all([redis.quit(), listener.quit()]);
console.log('ioredis works');
