# SPDX-License-Identifier: GPL-3.0-or-later
#
# Tests of the data set's contract (no torch, so a login node's build has them too) and of the
# trainer's data half.
find_package(yaml-cpp REQUIRED)

trainyard_test(dataset_test
  SOURCES archive_test.cpp dataset_test.cpp dataset_mutation_test.cpp
  LINKS trainyard::contract fmt::fmt LibArchive::LibArchive)
target_compile_definitions(dataset_test PRIVATE
  TRAINYARD_DOCS="${CMAKE_SOURCE_DIR}/docs")

if(TRAINYARD_TRAINER)
  find_package(ZLIB REQUIRED)
  find_package(Torch REQUIRED)
  find_package(OpenCV REQUIRED COMPONENTS core imgproc imgcodecs videoio)
  set(TRAINYARD_REFERENCE "${CMAKE_SOURCE_DIR}/../shared/reference" CACHE PATH
    "Numbers of the reference trainer; tests that need them skip where they are missing")
  trainyard_test(trainer_data_test
    SOURCES augment_test.cpp class_weights_test.cpp confusion_test.cpp dataset_check_test.cpp
      evaluate_test.cpp image_test.cpp loader_test.cpp photographs_test.cpp plots_test.cpp
      rect_test.cpp sampler_test.cpp scenes_test.cpp train_input_test.cpp
    LINKS trainyard::trainer trainyard::contract ${OpenCV_LIBS} ZLIB::ZLIB fmt::fmt
      nlohmann_json::nlohmann_json)
  target_include_directories(trainer_data_test SYSTEM PRIVATE ${OpenCV_INCLUDE_DIRS})
  target_compile_definitions(trainer_data_test PRIVATE
    TRAINYARD_REFERENCE="${TRAINYARD_REFERENCE}")

  add_executable(trainer_cache_ranks_test image_cache_ranks_test.cpp)
  target_link_libraries(trainer_cache_ranks_test PRIVATE trainyard::trainer GTest::gtest
    fmt::fmt ${OpenCV_LIBS})
  target_include_directories(trainer_cache_ranks_test SYSTEM PRIVATE ${OpenCV_INCLUDE_DIRS})
  trainyard_warnings(trainer_cache_ranks_test)
  find_package(MPI REQUIRED COMPONENTS CXX)
  foreach(ranks IN ITEMS 1 2)
    add_test(NAME trainer_cache_ranks_${ranks}
      COMMAND ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ranks} --oversubscribe
        --allow-run-as-root --bind-to none $<TARGET_FILE:trainer_cache_ranks_test>)
    set_tests_properties(trainer_cache_ranks_${ranks} PROPERTIES LABELS mpi TIMEOUT 60
      PROCESSORS ${ranks} ENVIRONMENT "TRAINYARD_EXPECT_RANKS=${ranks};OMP_NUM_THREADS=1")
  endforeach()

  # Not built by default: `cmake --build . --target loader_bench`.
  find_package(benchmark QUIET)
  if(benchmark_FOUND)
    add_executable(loader_bench EXCLUDE_FROM_ALL loader_bench.cpp)
    target_link_libraries(loader_bench PRIVATE trainyard::trainer ${OpenCV_LIBS}
      benchmark::benchmark)
    trainyard_warnings(loader_bench)
  endif()
endif()
