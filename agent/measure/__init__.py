"""What a run measured: one record per operation, and what is made of the records.

The numbers of one operation have four shapes on the way from the clock to the results:

1. `records.Exchange`: one operation that ended;
2. the counters of `metrics.Metrics` with their `latencies.Latencies`: all of one process;
3. `snapshots.OperationSnapshot`: the same as plain data between processes, merged into `Metrics` again;
4. `summaries.OperationSummary`: what results.json holds and every report reads.

The time line has the same first two, then `Metrics.take_second`, the plain row of one process in one second, and
`timeline.SecondOfOperation`, the merged second in results.json. The live screen and Prometheus show
`live.OperationView`, which is made from the same rows.
"""
