// A page from a template: a greeting and a list of random numbers.
const template = `<!DOCTYPE html>
<html>
  <head>
    <title>Randomly generated data.</title>
    <meta charset="utf-8">
  </head>
  <body>
    <p>Welcome {{username}}!</p>
    <p>Data generated at: {{cur_time}}!</p>
    <p>Requested random numbers:</p>
    <ul>
{{#each random_numbers}}      <li>{{this}}</li>
{{/each}}    </ul>
  </body>
</html>
`;

const escapes = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const escape = (value) => String(value).replace(/[&<>"']/g, (character) => escapes[character]);

function render(text, values) {
  return text
    .replace(/\{\{#each (\w+)\}\}([^]*?)\{\{\/each\}\}/g, (_, name, body) => values[name].map((item) => body.replaceAll("{{this}}", escape(item))).join(""))
    .replace(/\{\{(\w+)\}\}/g, (_, name) => escape(values[name]));
}

function main({ username = "stranger", random_len = 10 }) {
  const random_numbers = Array.from({ length: random_len }, () => Math.floor(Math.random() * 1e6));
  return { html: render(template, { username, cur_time: new Date().toISOString(), random_numbers }) };
}
