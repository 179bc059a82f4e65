# SPDX-License-Identifier: Apache-2.0
#
# NCCL: TRAINER_NCCL_SOURCE is the file that the trainer gets. The toolkit and nccl.h are looked for
# and tried; where anything is missing, the build goes without and says what. With a libtorch without
# CUDA the trainer has no use for NCCL: the file is then compiled and linked by a test alone.
option(TRAINYARD_NCCL "Use NCCL where the CUDA toolkit and nccl.h are found" ON)
set(TRAINER_NCCL_SOURCE nccl_absent.cpp)
set(TRAINER_NCCL_LINKS)
set(trainyard_nccl_problem "TRAINYARD_NCCL is off")
set(TRAINYARD_NCCL_WORKS OFF)
if(TRAINYARD_NCCL)
  find_package(CUDAToolkit QUIET)
  if(NOT TARGET CUDA::cudart)
    set(trainyard_nccl_problem "no CUDA toolkit found")
  else()
    find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ENV NCCL_HOME
      PATH_SUFFIXES include)
    # A runtime package has the library under its full name alone.
    find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS ${CUDAToolkit_LIBRARY_DIR} ENV NCCL_HOME PATH_SUFFIXES lib
      lib64)
    mark_as_advanced(NCCL_INCLUDE_DIR NCCL_LIBRARY)
    if(NOT NCCL_INCLUDE_DIR)
      set(trainyard_nccl_problem "nccl.h not found")
    elseif(NOT NCCL_LIBRARY)
      set(trainyard_nccl_problem "libnccl not found")
    else()
      include(CheckCXXSourceCompiles)
      set(CMAKE_REQUIRED_INCLUDES ${NCCL_INCLUDE_DIR} ${CUDAToolkit_INCLUDE_DIRS})
      set(CMAKE_REQUIRED_LIBRARIES ${NCCL_LIBRARY} ${CUDA_cudart_LIBRARY})
      check_cxx_source_compiles("
        #include <cuda_runtime.h>
        #include <nccl.h>
        int main() {
          int version = 0, count = 0;
          ncclUniqueId id{};
          return ncclGetVersion(&version) + ncclGetUniqueId(&id) + cudaGetDeviceCount(&count);
        }" TRAINYARD_NCCL_LINKS)
      unset(CMAKE_REQUIRED_INCLUDES)
      unset(CMAKE_REQUIRED_LIBRARIES)
      if(TRAINYARD_NCCL_LINKS)
        set(TRAINYARD_NCCL_WORKS ON)
        add_library(trainyard_nccl INTERFACE)
        target_include_directories(trainyard_nccl SYSTEM INTERFACE ${NCCL_INCLUDE_DIR}
          ${CUDAToolkit_INCLUDE_DIRS})
        target_link_libraries(trainyard_nccl INTERFACE ${NCCL_LIBRARY} ${CUDA_cudart_LIBRARY})
      else()
        set(trainyard_nccl_problem "a program with ${NCCL_LIBRARY} does not link")
      endif()
    endif()
  endif()
endif()

if(NOT TRAINYARD_NCCL_WORKS)
  trainyard_feature("NCCL: no (${trainyard_nccl_problem})")
elseif(TORCH_CUDA_LIBRARIES)
  set(TRAINER_NCCL_SOURCE nccl_communicator.cpp)
  set(TRAINER_NCCL_LINKS trainyard_nccl)
  trainyard_feature("NCCL: ${NCCL_LIBRARY}")
else()
  trainyard_feature("NCCL: compiled and linked by a test (this libtorch has no CUDA): ${NCCL_LIBRARY}")
endif()
