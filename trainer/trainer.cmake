# SPDX-License-Identifier: Apache-2.0
#
# The trainer library and its program. Files that include torch take long to compile: they share a
# precompiled header, and so do the tests.
find_package(Torch REQUIRED)
find_package(MPI REQUIRED COMPONENTS CXX)
find_package(OpenCV REQUIRED COMPONENTS core imgproc imgcodecs videoio)
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(ZLIB REQUIRED)
find_package(CLI11 REQUIRED)

include(nccl_sources.cmake)
include(data_sources.cmake)
include(export_sources.cmake)

# Compiled without torch: quick, and read by people who do not know it.
set(trainer_plain_sources
  batch_moments.cpp bench_collectives.cpp bench_report.cpp console.cpp durable_file.cpp id_exchange.cpp launch.cpp
  local_communicator.cpp mpi_communicator.cpp ${TRAINER_NCCL_SOURCE} norm_act_kernels.cpp
  preflight.cpp rank_setup.cpp run_folder.cpp run_owner.cpp start_watch.cpp tensor_header.cpp time_budget.cpp train_input.cpp
  watch_link.cpp watchdog.cpp)

module_library(trainer
  HEADERS
    amp.h assigner.h auto_batch.h batch_moments.h batch_step.h bench.h bench_collectives.h bfloat16.h blocks.h boxes.h
    checkpoint.h communicator.h console.h device.h durable_file.h ema.h
    gradient_reducer.h id_exchange.h launch.h layout.h loss.h model.h nccl_communicator.h norm_act.h norm_act_kernels.h optimizer.h
    preflight.h rank_setup.h replica.h run_folder.h run_owner.h run_pictures.h schedule.h start_watch.h step_trace.h sync_norm.h tensor_file.h tensor_header.h time_budget.h train.h train_input.h train_words.h
    validate.h watch_link.h watchdog.h weights_file.h
    ${TRAINER_DATA_HEADERS} ${TRAINER_EXPORT_HEADERS}
  SOURCES
    amp.cpp assigner.cpp auto_batch.cpp batch_step.cpp bench.cpp blocks.cpp boxes.cpp checkpoint.cpp device.cpp
    ema.cpp gradient_reducer.cpp layout.cpp
    loss.cpp model.cpp norm_act.cpp optimizer.cpp replica.cpp run_pictures.cpp schedule.cpp step_trace.cpp sync_norm.cpp
    tensor_file.cpp
    train.cpp train_files.cpp train_loop.cpp train_run.h train_words.cpp validate.cpp weights_file.cpp
    ${trainer_plain_sources}
    ${TRAINER_DATA_SOURCES} ${TRAINER_EXPORT_SOURCES}
  LINKS trainyard::contract torch torch_library
  PRIVATE_LINKS
    fmt::fmt nlohmann_json::nlohmann_json ZLIB::ZLIB MPI::MPI_CXX Threads::Threads $<LINK_ONLY:OpenMP::OpenMP_CXX>
    opencv_core opencv_imgproc opencv_imgcodecs opencv_videoio ${TRAINER_NCCL_LINKS}
    $<LINK_ONLY:onnx_proto>)  # Its definitions would differ from the precompiled header's.

# A libtorch with CUDA brings the toolkit's headers along (TORCH_CUDA_LIBRARIES of its package).
if(TORCH_CUDA_LIBRARIES)
  target_compile_definitions(trainyard_trainer PRIVATE TRAINYARD_CUDA)
  target_link_libraries(trainyard_trainer PRIVATE ${TORCH_CUDA_LIBRARIES})
endif()

# Not torch/torch.h, and line numbers only: a file compiles in a third of the time.
target_precompile_headers(trainyard_trainer PRIVATE <torch/types.h> <torch/utils.h>
  <torch/nn/module.h>)
target_compile_options(trainyard_trainer PRIVATE $<$<CONFIG:RelWithDebInfo>:-g1>)
set_source_files_properties(${trainer_plain_sources} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
# at::parallel_for is a header: where this flag is missing it runs on one thread and says nothing.
set_source_files_properties(norm_act.cpp PROPERTIES
  COMPILE_OPTIONS "${OpenMP_CXX_FLAGS}" SKIP_PRECOMPILE_HEADERS ON)
# Loops that are to become vectors.
set_source_files_properties(mpi_communicator.cpp PROPERTIES COMPILE_OPTIONS "-O3")
set_source_files_properties(norm_act_kernels.cpp PROPERTIES
  COMPILE_OPTIONS "-O3;-fno-math-errno;-fno-trapping-math")

set(trainer_plain_verbs bench_verb.cpp check_verb.cpp scenes_verb.cpp)
set_source_files_properties(${trainer_plain_verbs} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
add_executable(trainyard-trainer
  trainyard_trainer.cpp verbs.h export_verb.cpp predict_verb.cpp val_verb.cpp
  ${trainer_plain_verbs})
target_link_libraries(trainyard-trainer PRIVATE trainyard::trainer fmt::fmt CLI11::CLI11
  nlohmann_json::nlohmann_json opencv_core)
target_compile_definitions(trainyard-trainer PRIVATE TRAINYARD_VERSION="${PROJECT_VERSION}")
target_precompile_headers(trainyard-trainer REUSE_FROM trainyard_trainer)
# As the header was compiled.
target_compile_options(trainyard-trainer PRIVATE -fPIC $<$<CONFIG:RelWithDebInfo>:-g1>)
trainyard_warnings(trainyard-trainer)
install(TARGETS trainyard-trainer RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})

trainyard_feature("trainer: libtorch ${Torch_VERSION}, MPI ${MPI_CXX_VERSION}, OpenCV ${OpenCV_VERSION}")
