/** The form of a new run: what is chosen, and the files that are picked or dropped. */
import { byId, element } from "./element.ts";
import { readExamples } from "./example-lines.ts";
import type { Command, DeviceWish, MethodChoice, Settings } from "./protocol.ts";

const form = byId("setup", HTMLFormElement);
const field = (name: string): HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement =>
  form.elements.namedItem(name) as HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement;

const deviceNames: Readonly<Record<DeviceWish, string>> = {
  automatic: "Automatic",
  wasm: "Processor (WebAssembly)",
  gpu: "Graphics card (WebGPU, WebGL)",
};

let modelFiles: readonly File[] = [];
let textFile: File | null = null;
let methods: readonly MethodChoice[] = [];

/** Fills in what the engine can do, and calls `start` with what was chosen. */
export function prepareSetup(
  choices: readonly MethodChoice[],
  devices: readonly DeviceWish[],
  start: (command: Extract<Command, { type: "start" }>) => void,
): void {
  methods = choices;
  const methodField = field("method") as HTMLSelectElement;
  methodField.replaceChildren(...choices.map(({ name }) => new Option(name)));
  methodField.addEventListener("change", offerFields);
  const examples = field("examples") as HTMLTextAreaElement;
  examples.addEventListener("input", () => {
    const read = readExamples(examples.value);
    examples.setCustomValidity(typeof read === "string" ? read : "");
  });
  field("device").replaceChildren(...devices.map((name) => new Option(deviceNames[name], name)));
  takeFiles("model", "model-picker", (files) => {
    modelFiles = files;
    element("model-files").textContent =
      `${wordFiles(files)}, ${(files.reduce((sum, { size }) => sum + size, 0) / 1e6).toFixed(1)} MB`;
  });
  takeFiles("text", "text-picker", ([file]) => {
    textFile = file ?? null;
    element("text-file").textContent = file ? `${file.name}, ${(file.size / 1e6).toFixed(2)} MB` : "";
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const command = chosen();
    if (typeof command !== "string") start(command);
    else {
      element("start-hint").textContent = command;
      element("start-hint").setAttribute("role", "alert");
    }
  });
  offerFields();
}

/** Fields that a method does not have are switched off; examples, which one method has, are shown for that one. */
function offerFields(): void {
  const fields = methods.find(({ name }) => name === field("method").value)?.fields ?? [];
  for (const name of ["rank", "alpha", "dropout", "targets"] as const) field(name).disabled = !fields.includes(name);
  field("examples").disabled = element("examples").hidden = !fields.includes("examples");
}

const lines = (text: string, between: RegExp): string[] =>
  text
    .split(between)
    .map((part) => part.trim())
    .filter((part) => part !== "");

/** The command that the form stands for, or what is missing. */
function chosen(): Extract<Command, { type: "start" }> | string {
  const [ownModel, ownText] = [field("model").value === "given", field("text").value === "given"];
  if (ownModel && modelFiles.length === 0) return "Choose the model's files first.";
  if (ownText && !textFile) return "Choose a text first.";
  const examples = field("examples").disabled ? undefined : readExamples(field("examples").value);
  if (typeof examples === "string") return examples;
  const number = (name: string) => Number(field(name).value);
  const given = (name: "rank" | "alpha" | "dropout") =>
    field(name).disabled || (name === "dropout" && number(name) === 0) ? {} : { [name]: number(name) };
  const settings: Settings = {
    model: ownModel ? wordFiles(modelFiles) : null,
    text: ownText ? (textFile as File).name : null,
    method: field("method").value as Settings["method"],
    ...given("rank"),
    ...given("alpha"),
    ...given("dropout"),
    targets: field("targets").disabled ? ["all-linear"] : lines(field("targets").value, /[\s,]+/),
    ...(examples && { examples }),
    steps: number("steps"),
    batch: number("batch"),
    window: number("window"),
    learningRate: number("learningRate"),
    seed: number("seed"),
    prompts: lines(field("prompts").value, /\n/),
    device: field("device").value as DeviceWish,
  };
  return { type: "start", settings, modelFiles: ownModel ? modelFiles : [], textFile: ownText ? textFile : null };
}

/** What a person calls these files. */
function wordFiles(files: readonly File[]): string {
  const folder = files[0]?.webkitRelativePath?.split("/")[0] || droppedFolders.get(files[0] as File);
  const main = files.find(({ name }) => /\.(gguf|safetensors)$/.test(name)) ?? files[0];
  return folder || (files.length > 1 ? `${main?.name} and ${files.length - 1} more` : (main?.name ?? ""));
}

/** The folder that a file was dropped in: browsers tell it of files that are chosen only. */
const droppedFolders = new WeakMap<File, string>();

/** Files that are chosen, or dropped on the fieldset; of a dropped folder the files right in it. */
function takeFiles(fieldset: string, picker: string, take: (files: readonly File[]) => void): void {
  const area = element(fieldset);
  const input = byId(picker, HTMLInputElement);
  const drop = area.querySelector(".drop") as HTMLElement;
  input.addEventListener("change", () => input.files?.length && take([...input.files]));
  area.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  area.addEventListener("dragleave", () => drop.classList.remove("over"));
  area.addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const entries = [...(event.dataTransfer?.items ?? [])].flatMap((item) => item.webkitGetAsEntry() ?? []);
    const files = (await Promise.all(entries.map((entry) => filesOf(entry)))).flat();
    if (files.length === 0) return;
    const own = area.querySelector<HTMLInputElement>('[value="given"]');
    if (own) own.checked = true;
    take(files);
  });
}

async function filesOf(entry: FileSystemEntry, depth = 0): Promise<File[]> {
  if (entry.isFile) return [await new Promise<File>((done, failed) => (entry as FileSystemFileEntry).file(done, failed))];
  if (depth > 0) return [];
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const all: FileSystemEntry[] = [];
  for (;;) {
    // a reader gives a hundred at a time
    const some = await new Promise<FileSystemEntry[]>((done, failed) => reader.readEntries(done, failed));
    if (some.length === 0) break;
    all.push(...some);
  }
  const files = (await Promise.all(all.map((each) => filesOf(each, depth + 1)))).flat();
  for (const file of files) droppedFolders.set(file, entry.name);
  return files;
}
