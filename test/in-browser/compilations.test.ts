import "../gpu/compilations.test.ts";
