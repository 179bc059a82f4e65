# SPDX-License-Identifier: GPL-3.0-or-later
#
# find_package(OpenCV COMPONENTS core imgproc ...) where Debian's whole libopencv-dev, which carries
# OpenCVConfig.cmake, is not installed: its parts (libopencv-core-dev and so on) are enough for us and
# draw in far less. Sets OpenCV_LIBS, OpenCV_INCLUDE_DIRS, OpenCV_VERSION as the original does.
find_package(OpenCV CONFIG QUIET COMPONENTS ${OpenCV_FIND_COMPONENTS})
if(NOT OpenCV_LIBS)
  find_path(OpenCV_INCLUDE_DIR opencv2/core.hpp PATH_SUFFIXES opencv4)
  set(OpenCV_LIBS)
  set(opencv_variables OpenCV_INCLUDE_DIR)
  foreach(component IN LISTS OpenCV_FIND_COMPONENTS)
    find_library(OpenCV_${component}_LIBRARY opencv_${component})
    list(APPEND opencv_variables OpenCV_${component}_LIBRARY)
    if(OpenCV_${component}_LIBRARY AND NOT TARGET opencv_${component})
      add_library(opencv_${component} UNKNOWN IMPORTED)
      set_target_properties(opencv_${component} PROPERTIES
        IMPORTED_LOCATION ${OpenCV_${component}_LIBRARY}
        INTERFACE_INCLUDE_DIRECTORIES "${OpenCV_INCLUDE_DIR}")
    endif()
    list(APPEND OpenCV_LIBS opencv_${component})
  endforeach()
  set(OpenCV_INCLUDE_DIRS ${OpenCV_INCLUDE_DIR})
  if(OpenCV_INCLUDE_DIR)
    file(STRINGS ${OpenCV_INCLUDE_DIR}/opencv2/core/version.hpp opencv_version_lines
      REGEX "#define CV_VERSION_(MAJOR|MINOR|REVISION) +[0-9]+")
    string(REGEX REPLACE "[^;0-9]+([0-9]+)" "\\1" opencv_version "${opencv_version_lines}")
    string(REPLACE ";" "." OpenCV_VERSION "${opencv_version}")
  endif()
  include(FindPackageHandleStandardArgs)
  find_package_handle_standard_args(OpenCV REQUIRED_VARS ${opencv_variables}
    VERSION_VAR OpenCV_VERSION)
  mark_as_advanced(${opencv_variables})
endif()
