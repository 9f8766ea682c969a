/** Errors of the engine: a stable code, a sentence that says what happened, a hint where there is a next step. */
export class EngineError extends Error {
  readonly code: string;
  declare readonly hint?: string;
  constructor(code: string, message: string, hint?: string) {
    super(message);
    this.name = "EngineError";
    this.code = code;
    if (hint !== undefined) this.hint = hint;
  }
}
