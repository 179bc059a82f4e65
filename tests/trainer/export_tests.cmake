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
