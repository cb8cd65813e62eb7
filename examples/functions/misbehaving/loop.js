// Never ends.
function main() {
  for (;;) ;
}
