# SPDX-License-Identifier: Apache-2.0
#
# The trainer library and its program. Files that include torch take long to compile: they share a
# precompiled header, and so do the tests.
find_package(Torch REQUIRED)
find_package(MPI REQUIRED COMPONENTS CXX)
find_package(OpenCV REQUIRED COMPONENTS core imgproc imgcodecs videoio)
find_package(Threads REQUIRED)
find_package(ZLIB REQUIRED)
find_package(CLI11 REQUIRED)

include(data_sources.cmake)

# Compiled without torch: quick, and read by people who do not know it.
set(trainer_plain_sources
  console.cpp durable_file.cpp launch.cpp local_communicator.cpp mpi_communicator.cpp
  run_folder.cpp time_budget.cpp train_input.cpp)

module_library(trainer
  HEADERS
    assigner.h boxes.h checkpoint.h communicator.h console.h durable_file.h ema.h
    gradient_reducer.h launch.h loss.h model.h optimizer.h replica.h run_folder.h schedule.h tensor_file.h
    time_budget.h train.h train_input.h validate.h weights_file.h
    ${TRAINER_DATA_HEADERS}
  SOURCES
    assigner.cpp boxes.cpp checkpoint.cpp ema.cpp gradient_reducer.cpp loss.cpp model.cpp
    optimizer.cpp replica.cpp schedule.cpp tensor_file.cpp train.cpp validate.cpp weights_file.cpp
    ${trainer_plain_sources}
    ${TRAINER_DATA_SOURCES}
  LINKS trainyard::contract torch torch_library
  PRIVATE_LINKS
    fmt::fmt nlohmann_json::nlohmann_json ZLIB::ZLIB MPI::MPI_CXX Threads::Threads
    opencv_core opencv_imgproc opencv_imgcodecs opencv_videoio)

# Not torch/torch.h, and line numbers only: a file compiles in a third of the time.
target_precompile_headers(trainyard_trainer PRIVATE <torch/types.h> <torch/utils.h>
  <torch/nn/module.h>)
target_compile_options(trainyard_trainer PRIVATE $<$<CONFIG:RelWithDebInfo>:-g1>)
set_source_files_properties(${trainer_plain_sources} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)

set(trainer_plain_verbs check_verb.cpp scenes_verb.cpp)
set_source_files_properties(${trainer_plain_verbs} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
add_executable(trainyard-trainer
  trainyard_trainer.cpp verbs.h predict_verb.cpp val_verb.cpp ${trainer_plain_verbs})
target_link_libraries(trainyard-trainer PRIVATE trainyard::trainer fmt::fmt CLI11::CLI11
  nlohmann_json::nlohmann_json opencv_core)
target_compile_definitions(trainyard-trainer PRIVATE TRAINYARD_VERSION="${PROJECT_VERSION}")
target_precompile_headers(trainyard-trainer REUSE_FROM trainyard_trainer)
# As the header was compiled.
target_compile_options(trainyard-trainer PRIVATE -fPIC $<$<CONFIG:RelWithDebInfo>:-g1>)
trainyard_warnings(trainyard-trainer)
install(TARGETS trainyard-trainer RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})

trainyard_feature("trainer: libtorch ${Torch_VERSION}, MPI ${MPI_CXX_VERSION}, OpenCV ${OpenCV_VERSION}")
