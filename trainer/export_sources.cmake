# SPDX-License-Identifier: Apache-2.0
#
# Models for other programs. Headers that show torch's JIT are private.
find_package(ONNX CONFIG REQUIRED)

set(TRAINER_EXPORT_HEADERS export.h export_metadata.h onnx_file.h)
set(trainer_export_plain_sources export_metadata.cpp onnx_file.cpp)
set(TRAINER_EXPORT_SOURCES export.cpp export_onnx.cpp export_trace.cpp
  ${trainer_export_plain_sources})
# Without torch: quick to compile.
set_source_files_properties(${trainer_export_plain_sources} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
