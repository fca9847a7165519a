#!/usr/bin/env node
// In the workspace the sources run as they are; the published package points its bin at dist.
import { register } from "tsx/esm/api";

register();
await import("../src/bin.ts");
