"""What contenders do: functions that return a `worker.Work`. Only worker processes import them.

Settings that many share: `work` is the folder that the stage's preparations wrote to, `batch` the
images per step, `size` the side of the images in pixels, `precision` is `float32` or `bfloat16`,
`files` tells whether a step begins with PNG files.
"""
