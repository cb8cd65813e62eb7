// node-redis: what applications do with it.
import assert from 'node:assert/strict';
import { createClient, defineScript } from 'redis';

const options = RESP => ({
  RESP,
  socket: { host: process.env.REDIS_HOST, port: Number(process.env.REDIS_PORT) },
  password: process.env.REDIS_PASSWORD,
  scripts: {
    // The one that has the token gives the lock back.
    release: defineScript({
      NUMBER_OF_KEYS: 1,
      SCRIPT: "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0",
      parseCommand(parser, key, token) { parser.pushKey(key); parser.push(token); },
      transformReply: reply => reply,
    }),
  },
});

for (const RESP of [2, 3]) {
  const client = await createClient(options(RESP)).connect();
  const at = name => `node:${RESP}:${name}`;

  await client.set(at('text'), 'grüße', { expiration: { type: 'EX', value: 100 } });
  assert.equal(await client.get(at('text')), 'grüße');
  await client.hSet(at('hash'), { a: 1, b: 'two' });
  assert.deepEqual({ ...(await client.hGetAll(at('hash'))) }, { a: '1', b: 'two' });
  await client.zAdd(at('board'), [{ score: 3, value: 'ann' }, { score: 1.5, value: 'bob' }]);
  assert.deepEqual((await client.zRangeWithScores(at('board'), 0, -1)).map(one => [one.value, one.score]), [['bob', 1.5], ['ann', 3]]);
  const large = 'v'.repeat(2_000_000);
  await client.set(at('large'), large);
  assert.equal(await client.get(at('large')), large);

  // Many at once, and a transaction.
  const written = await Promise.all(Array.from({ length: 1000 }, (_, n) => client.set(at(`many:${n}`), `${n}`)));
  assert(written.every(reply => reply === 'OK'));
  let seen = 0;
  for await (const keys of client.scanIterator({ MATCH: at('many:*'), COUNT: 100 })) seen += keys.length;
  assert.equal(seen, 1000);
  assert.deepEqual(await client.multi().set(at('n'), '1').incrBy(at('n'), 4).get(at('n')).exec(), ['OK', 5, '5']);
  const other = await client.duplicate().connect();
  await other.watch(at('n'));
  await client.incr(at('n'));
  await assert.rejects(other.multi().set(at('n'), '0').exec());
  assert.equal(await client.get(at('n')), '6');

  // Messages, and one who waits.
  const listener = await client.duplicate().connect();
  const heard = new Promise(resolve => listener.subscribe(at('news'), (message, channel) => resolve([channel, message])).then(() => client.publish(at('news'), 'hello')));
  assert.deepEqual(await heard, [at('news'), 'hello']);
  await listener.unsubscribe();
  const waiting = other.blPop(at('queue'), 20);
  await client.rPush(at('queue'), 'job');
  assert.deepEqual({ ...(await waiting) }, { key: at('queue'), element: 'job' });

  // Scripts and functions.
  await client.set(at('lock'), 'token', { condition: 'NX' });
  assert.equal(await client.release(at('lock'), 'other'), 0);
  assert.equal(await client.release(at('lock'), 'token'), 1);
  assert.equal(await client.eval('return {KEYS[1], ARGV[1]}', { keys: ['k'], arguments: ['v'] }).then(reply => reply.join()), 'k,v');
  await client.functionLoad(`#!lua name=node${RESP}\nredis.register_function('node${RESP}', function(keys, args) return redis.call('INCR', keys[1]) end)`, { REPLACE: true });
  assert.equal(await client.fCall(`node${RESP}`, { keys: [at('n')], arguments: [] }), 7);
  await client.functionDelete(`node${RESP}`);

  // A stream and its group.
  await client.xGroupCreate(at('stream'), 'workers', '$', { MKSTREAM: true });
  const id = await client.xAdd(at('stream'), '*', { n: '1' });
  const read = await other.xReadGroup('workers', 'one', { key: at('stream'), id: '>' }, { BLOCK: 1000 });
  assert(JSON.stringify(read).includes(id), JSON.stringify(read));
  assert.equal(await client.xAck(at('stream'), 'workers', id), 1);
  await Promise.all([client, other, listener].map(one => one.close()));
}
console.log('node-redis works');
