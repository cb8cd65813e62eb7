"""RQ: a queue of jobs and a worker."""
import os

import redis
import rq

connection = redis.Redis(host=os.environ["REDIS_HOST"], port=int(os.environ["REDIS_PORT"]), password=os.environ.get("REDIS_PASSWORD"))
queue = rq.Queue("rq-test", connection=connection)
jobs = [queue.enqueue("operator.mul", number, 2) for number in range(10)]
fails = queue.enqueue("operator.truediv", 1, 0)
later = queue.enqueue("operator.add", 1, 2, depends_on=jobs[0])
worker = rq.SimpleWorker([queue], connection=connection)
assert worker.work(burst=True, logging_level="ERROR")
assert [job.return_value() for job in jobs] == [number * 2 for number in range(10)]
assert later.return_value() == 3
assert fails.is_failed and fails.id in queue.failed_job_registry
print("RQ", rq.VERSION if hasattr(rq, "VERSION") else "", "works")
