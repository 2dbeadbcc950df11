/** What the keys of a method's config may hold: `kind.integer(1)` is a positive integer. */
export {
  anything,
  boolean,
  choice,
  float,
  integer,
  integers,
  integersByName,
  number,
  numberByPattern,
  object,
  text,
  texts,
} from "../formats/peft-config.ts";
