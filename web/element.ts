/** The page's elements, found by their ids in index.html. */

/** @throws when index.html has no such element, or it is of another kind */
export function byId<Kind extends HTMLElement>(id: string, kind: new () => Kind): Kind {
  const found = document.getElementById(id);
  if (found instanceof kind) return found;
  throw new Error(`index.html has no ${kind.name} called ${id}`);
}

export const element = (id: string): HTMLElement => byId(id, HTMLElement);
export const button = (id: string): HTMLButtonElement => byId(id, HTMLButtonElement);
