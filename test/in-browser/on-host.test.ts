/** The same tests with mode webgpu. */
import "../gpu/on-host.test.ts";
