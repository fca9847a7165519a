/**
 * The errors of this package. Each says what happened, to which row, and what to do about it.
 *
 * `SqlError` of `@effect/sql` stays beside them in every error channel: it means that the database could not answer
 * (connection, deadlock, serialization …), which is what a worker retries on.
 */
import * as S from "effect/Schema";

/**
 * The caller's input cannot be accepted; nothing was written.
 * `operation` is the method (`jobDlq.insert`), `field` the argument with its path (`payload.$.items[3]`).
 */
export class InvalidInput extends S.TaggedError<InvalidInput>()("InvalidInput", {
  operation: S.String,
  field: S.String,
  problem: S.String,
}) {
  override get message() {
    return `${this.operation}: ${this.field} ${this.problem}. Nothing was written.`;
  }
}

/** A page cursor that this package did not make, or that was changed on its way. Start again without a cursor. */
export class InvalidCursor extends S.TaggedError<InvalidCursor>()("InvalidCursor", {
  operation: S.String,
  cursor: S.String,
}) {
  override get message() {
    return `${this.operation}: the cursor ${JSON.stringify(this.cursor)} is not one that a page returned. Start from the first page (no cursor), or pass the \`next\` of a page unchanged.`;
  }
}

/** A row names an app that does not exist (foreign key). `appIds`: the apps of the call, one of which it is. */
export class AppNotFound extends S.TaggedError<AppNotFound>()("AppNotFound", {
  operation: S.String,
  appIds: S.Array(S.String),
}) {
  override get message() {
    const apps = this.appIds.slice(0, 5).join(", ");
    const which =
      this.appIds.length === 1
        ? `the app ${apps} does not exist`
        : `one of the apps ${apps}${this.appIds.length > 5 ? ", …" : ""} does not exist`;
    return `${this.operation}: ${which}. Create it with apps.insert in the system scope first. Nothing was written.`;
  }
}

/**
 * The database refused by right.
 * `ForeignTenant`: a row of another tenant would have been written (row-level security).
 * `Privilege`: the role may not do this at all; outside every scope that is the answer to each query of a restricted login.
 */
export class AccessDenied extends S.TaggedError<AccessDenied>()("AccessDenied", {
  operation: S.String,
  reason: S.Literal("ForeignTenant", "Privilege"),
  detail: S.String,
}) {
  override get message() {
    return this.reason === "ForeignTenant"
      ? `${this.operation}: refused, the row belongs to another tenant than the scope (${this.detail}). Open Client.tenant with the row's own appId. Nothing was written.`
      : `${this.operation}: refused (${this.detail}). Run it inside Client.tenant(appId) or Client.system; if it is, the login is no member of that role or the table has no GRANT to it.`;
  }
}

/** No dead letter has this id, as far as the scope can see. */
export class JobDlqNotFound extends S.TaggedError<JobDlqNotFound>()("JobDlqNotFound", { id: S.String }) {
  override get message() {
    return `No dead letter ${this.id} in this scope. It may have been purged, discarded or erased, or belong to another tenant.`;
  }
}

/** The dead letter was replayed before; once is all it can be. */
export class JobDlqAlreadyReplayed extends S.TaggedError<JobDlqAlreadyReplayed>()("JobDlqAlreadyReplayed", {
  id: S.String,
  replayedAt: S.DateFromSelf,
}) {
  override get message() {
    return `Dead letter ${this.id} was already replayed at ${this.replayedAt.toISOString()}. If its job failed again, there is a newer dead letter of the same job.`;
  }
}

/** No job has this id, as far as the scope can see. */
export class JobNotFound extends S.TaggedError<JobNotFound>()("JobNotFound", { id: S.String }) {
  override get message() {
    return `No job ${this.id} in this scope. It may have been purged, or belong to another tenant.`;
  }
}

/** The job is not in the caller's hands: it ended, or another claim has it now. The caller's result counts for nothing. */
export class JobNotHeld extends S.TaggedError<JobNotHeld>()("JobNotHeld", {
  operation: S.String,
  id: S.String,
  status: S.String,
}) {
  override get message() {
    return `${this.operation}: job ${this.id} is ${this.status} and not held with this fence. Another runner has it, or it has ended; drop this result.`;
  }
}

/** The job had its last attempt, so it cannot be retried. Dead-letter it with the reason MaxRetries, or replay it later. */
export class JobExhausted extends S.TaggedError<JobExhausted>()("JobExhausted", {
  id: S.String,
  attempts: S.Int,
  maxAttempts: S.Int,
}) {
  override get message() {
    return `jobs.retry: job ${this.id} has had ${this.attempts} of its ${this.maxAttempts} attempts. Dead-letter it with the reason MaxRetries.`;
  }
}

/** A scope was opened inside another one. Only the same scope may be opened again. */
export class ScopeConflict extends S.TaggedError<ScopeConflict>()("ScopeConflict", {
  current: S.String,
  requested: S.String,
}) {
  override get message() {
    return `A ${this.requested} scope cannot be opened inside a ${this.current} scope. End the outer scope first.`;
  }
}

/** A stored row that does not fit its model: someone wrote it past this package. The other rows of its page are unharmed. */
export class BadRow extends S.TaggedError<BadRow>()("BadRow", {
  table: S.String,
  id: S.String,
  problem: S.String,
}) {
  override get message() {
    return `Row ${this.id} of ${this.table} does not fit its model: ${this.problem}. Repair it with SQL, or delete it.`;
  }
}
