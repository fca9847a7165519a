/** Which part of the queue a job is in, the same here and in the column `jobs.partition`. Pure. */

/** Fixed by migration 0007, because an index needs a constant. */
export const partitionCount = 32;

/** All partitions. */
export const partitions: ReadonlyArray<number> = Array.from({ length: partitionCount }, (_, partition) => partition);

/** The partition of a job: the last byte of its id modulo {@link partitionCount}. */
export const partitionOf = (jobId: string): number => Number.parseInt(jobId.slice(-2), 16) % partitionCount;
