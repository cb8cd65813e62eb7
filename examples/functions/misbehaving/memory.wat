;; Takes memory, and writes to it, until there is none.
(module (memory (export "memory") 1)
  (func (export "_start") (local $size i32)
    (loop $on
      (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then (unreachable)))
      (local.set $size (i32.mul (memory.size) (i32.const 65536)))
      (memory.fill (i32.sub (local.get $size) (i32.const 1048576)) (i32.const 7) (i32.const 1048576))
      (br $on))))
