/** A form from the JSON Schema of an operation: what it shows for each field, and the body that its state stands for. */

export interface Schema {
  readonly type?: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly format?: string;
  readonly media?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly anyOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly minimum?: number;
  readonly maximum?: number;
}

export interface Operation {
  readonly name: string;
  readonly input: Schema;
  readonly slots: Readonly<
    Record<string, { readonly summary: string; readonly optional: boolean; readonly default?: unknown }>
  >;
}

/** One field on the page and how to read it; undefined: it was left as it is. */
export interface Field {
  readonly name: string;
  readonly element: HTMLElement;
  readonly kind: "main" | "number" | "other";
  read(): Promise<unknown>;
}

/** Where the daemon keeps what a person picked from their own disk. */
export type Keep = (picture: File) => Promise<string>;

let ids = 0;

export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  more: Partial<HTMLElementTagNameMap[K]> = {},
  ...children: readonly (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = Object.assign(document.createElement(tag), more);
  element.append(...children);
  return element;
}

/** `negativePrompt` -> `Negative prompt`. */
const words = (name: string): string => {
  const text = name
    .replace(/^num(?=[A-Z])/, "")
    .replace(/([a-z])([A-Z0-9])/g, "$1 $2")
    .toLowerCase();
  return text.charAt(0).toUpperCase() + text.slice(1);
};

function labelled(name: string, schema: Schema, control: HTMLElement): HTMLElement {
  control.id = `field-${++ids}`;
  const label = make("label", { htmlFor: control.id }, words(name));
  const note = schema.description === undefined ? [] : [make("small", {}, schema.description)];
  if (control instanceof HTMLInputElement && control.type === "checkbox")
    return make("div", { className: "field check" }, control, label, ...note);
  return make("div", { className: "field" }, label, control, ...note);
}

/** A list is asked for as one of its members: who needs several has the shell and the API. */
const single = (schema: Schema): Schema => {
  const some = schema.anyOf?.find(({ type }) => type !== "array" && type !== "null");
  return some === undefined ? schema : { ...some, ...schema };
};

function fieldOf(name: string, given: Schema, keep: Keep, models: readonly string[]): Field | undefined {
  const schema = single(given);
  const { type, default: fallback } = schema;
  if (schema.enum !== undefined) {
    const none = fallback === undefined ? [make("option", { value: "" }, "automatic")] : [];
    const options = schema.enum.map((each) => make("option", { value: String(each) }, String(each)));
    const control = make("select", { name }, ...none, ...options);
    if (fallback !== undefined) control.value = String(fallback);
    return {
      name,
      kind: "other",
      element: labelled(name, schema, control),
      read: async () => control.value || undefined,
    };
  }
  if (type === "boolean") {
    const control = make("input", { type: "checkbox", name, checked: fallback === true });
    return { name, kind: "other", element: labelled(name, schema, control), read: async () => control.checked };
  }
  if (type === "number" || type === "integer") {
    const control = make("input", { type: "number", name, step: type === "integer" ? "1" : "any" });
    control.placeholder = fallback === undefined ? "automatic" : String(fallback);
    return {
      ...{ name, kind: "number", element: labelled(name, schema, control) },
      read: async () => (control.value === "" ? undefined : control.valueAsNumber),
    };
  }
  if (type !== "string") return undefined;
  if (schema.media === "image") {
    const control = make("input", { type: "file", name, accept: "image/png,image/jpeg,image/webp" });
    const read = async (): Promise<string | undefined> => {
      const [picture] = control.files ?? [];
      return picture === undefined ? undefined : keep(picture);
    };
    return { name, kind: "main", element: labelled(name, schema, control), read };
  }
  const isLong = /prompt$/i.test(name);
  const control = isLong ? make("textarea", { name }) : make("input", { type: "text", name });
  if (typeof fallback === "string") control.value = fallback;
  const element = labelled(name, schema, control);
  if (schema.format === "model") {
    const list = make("datalist", { id: `list-${++ids}` }, ...models.map((value) => make("option", { value })));
    control.setAttribute("list", list.id);
    if (models.length === 1) control.value = models[0] as string;
    element.append(list);
  }
  const kind = name === "prompt" || schema.format === "model" ? "main" : "other";
  return {
    name,
    kind,
    element,
    read: async () => (control.value === "" && fallback === undefined ? undefined : control.value),
  };
}

/** A choice between providers, with the options of the chosen one below it. */
function slotOf(name: string, schema: Schema, slot: Operation["slots"][string]): Field {
  const choices = (schema.oneOf ?? schema.anyOf ?? [schema]).filter(
    ({ properties }) => properties?.["id"] !== undefined,
  );
  const idOf = ({ properties }: Schema): string =>
    String(properties?.["id"]?.const ?? properties?.["id"]?.enum?.[0] ?? "");
  const preset = (slot.default ?? undefined) as Readonly<Record<string, unknown>> | undefined;
  const none = slot.optional && preset === undefined ? [make("option", { value: "" }, "automatic")] : [];
  const select = make(
    "select",
    {},
    ...none,
    ...choices.map((each) => make("option", { value: idOf(each) }, idOf(each))),
  );
  if (preset !== undefined) select.value = String(preset["id"]);
  const options = make("div");
  let fields: readonly Field[] = [];
  const show = (): void => {
    const chosen = choices.find((each) => idOf(each) === select.value);
    const isPreset = preset?.["id"] === select.value;
    fields = Object.entries(chosen?.properties ?? {})
      .filter(([key]) => key !== "id")
      .map(([key, each]) =>
        fieldOf(
          key,
          isPreset && preset?.[key] !== undefined ? { ...each, default: preset[key] } : each,
          async () => "",
          [],
        ),
      )
      .filter((field) => field !== undefined);
    options.replaceChildren(...grouped(fields));
  };
  select.addEventListener("change", show);
  show();
  const element = make(
    "fieldset",
    {},
    make("legend", {}, words(name)),
    labelled("method", { description: slot.summary }, select),
    options,
  );
  const read = async (): Promise<unknown> =>
    select.value === "" ? undefined : { id: select.value, ...(await bodyOf(fields)) };
  return { name, kind: "other", element, read };
}

/** Numbers side by side, everything else below. */
export const grouped = (fields: readonly Field[]): HTMLElement[] => {
  const of = (kind: Field["kind"]): HTMLElement[] =>
    fields.filter((field) => field.kind === kind).map(({ element }) => element);
  const numbers = of("number");
  return [
    ...of("main"),
    ...(numbers.length > 0 ? [make("div", { className: "row" }, ...numbers)] : []),
    ...of("other"),
  ];
};

export function fieldsOf(
  { input, slots }: Operation,
  leftOut: ReadonlySet<string>,
  keep: Keep,
  models: readonly string[],
): Field[] {
  return Object.entries(input.properties ?? {})
    .filter(([name]) => !leftOut.has(name))
    .map(([name, schema]) => {
      const slot = slots[name];
      return slot === undefined ? fieldOf(name, schema, keep, models) : slotOf(name, schema, slot);
    })
    .filter((field) => field !== undefined);
}

export async function bodyOf(fields: readonly Field[]): Promise<Record<string, unknown>> {
  const body: Record<string, unknown> = {};
  for (const field of fields) {
    const value = await field.read();
    if (value !== undefined) body[field.name] = value;
  }
  return body;
}
