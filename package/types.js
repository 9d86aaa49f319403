/** The package's types: what its entries declare, and what that refers to. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import ts from 'typescript';

/**
 * @param {string} root of the project
 * @param {string} out the package's folder
 */
export function writeTypes(root, out) {
  const source = join(root, 'src', 'package');
  const config = ts.readConfigFile(join(root, 'tsconfig.package.json'), (path) => ts.sys.readFile(path));
  const { options, fileNames } = ts.parseJsonConfigFileContent(config.config, ts.sys, root);
  const program = ts.createProgram(fileNames, {
    ...options,
    noEmit: false,
    declaration: true,
    emitDeclarationOnly: true,
  });
  mkdirSync(join(out, 'types'), { recursive: true });
  for (const name of ['contract', 'darkroom', 'element', 'node']) {
    const file = program.getSourceFile(join(source, `${name}.ts`));
    if (!file) {
      continue;
    }
    program.emit(file, (path, text) => {
      if (/from ["']\.\.\//.test(text)) {
        throw new Error(`The types of ${name}.ts refer to more than the package's contract.`);
      }
      writeFileSync(join(out, 'types', basename(path)), text.replace(/(from ["']\.\/\w+)\.ts(["'])/g, '$1.js$2'));
    });
  }
}
