export declare const bundle: (folder: string) => Promise<unknown>;
