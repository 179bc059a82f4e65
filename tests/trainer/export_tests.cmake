# SPDX-License-Identifier: GPL-3.0-or-later
#
# The verbs export and bench; exported models in other programs' runtimes. OpenCV's dnn is of use
# to this test alone.
find_package(OpenCV REQUIRED COMPONENTS core imgproc imgcodecs dnn)
find_package(ONNX CONFIG REQUIRED)

trainyard_test(trainer_tools_test
  SOURCES bench_test.cpp export_test.cpp
  LINKS trainyard::trainer opencv_core opencv_dnn
    $<LINK_ONLY:onnx> $<LINK_ONLY:onnx_proto>
  PROPERTIES ENVIRONMENT "OMP_NUM_THREADS=1;OPENBLAS_NUM_THREADS=1" TIMEOUT 120)
trainyard_shares_torch_header(trainer_tools_test)
target_include_directories(trainer_tools_test SYSTEM PRIVATE ${OpenCV_INCLUDE_DIRS})
target_compile_definitions(trainer_tools_test PRIVATE TRAINYARD_DOCS="${CMAKE_SOURCE_DIR}/docs")

add_test(NAME trainer_bench_runs
  COMMAND trainyard-trainer bench --imgsz 64 --batch 4 --steps 2 --warmup 1 --json)
set_tests_properties(trainer_bench_runs PROPERTIES LABELS unit TIMEOUT 60
  PASS_REGULAR_EXPRESSION "\"images_per_s\": [0-9]"
  ENVIRONMENT "OMP_NUM_THREADS=1;OPENBLAS_NUM_THREADS=1")
