// The worker of graphile-worker in the benchmark. docs/performance.md says where
// each of its settings comes from.
"use strict";

const { Logger, run, runMigrations } = require("graphile-worker");

const concurrentJobs = 10;

const preset = {
  worker: {
    connectionString: process.env.DATABASE_URL,
    concurrentJobs,
    // Each job has a connection, beside the one that takes it from the queue.
    maxPoolSize: 2 * concurrentJobs + 2,
    localQueue: { size: concurrentJobs + 1 },
    completeJobBatchDelay: 250,
    failJobBatchDelay: 250,
    // Not a line for each job.
    logger: new Logger(() => (level, message) => {
      if (level === "error" || level === "warning") console.error(level, message);
    }),
  },
};

async function countUsage(payload, { withPgClient }) {
  // A statement with a name is prepared once for a connection.
  const query = { name: "count", text: process.env.BENCH_COUNT, values: [JSON.stringify(payload)] };
  await withPgClient((client) => client.query(query));
}

async function main() {
  if (process.argv[2] === "migrate") return runMigrations({ preset });
  const runner = await run({
    preset,
    noHandleSignals: true, // its own handler ends with the signal, as if it had failed
    taskList: { count_usage: countUsage },
  });
  process.once("SIGTERM", () => runner.stop());
  console.log("at work");
  return runner.promise;
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
