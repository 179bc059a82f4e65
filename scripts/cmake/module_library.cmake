# SPDX-License-Identifier: GPL-3.0-or-later
#
# module_library(name HEADERS ... SOURCES ... LINKS ... [PRIVATE_LINKS ...])
#
# A folder is one target: its alias trainyard::name, its public headers (each is compiled alone by
# the target all_verify_interface_header_sets), and our warnings, which are private to it.
function(trainyard_warnings target)
  target_compile_options(${target} PRIVATE
    -Wall -Wextra           # the usual
    -Wshadow                # a name that hides another is a bug in waiting
    -Wnon-virtual-dtor      # deleting through a base
    -Wold-style-cast        # casts are to be seen
    -Wunused -Woverloaded-virtual)
  if(TRAINYARD_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
endfunction()

function(module_library name)
  cmake_parse_arguments(arg "" "" "HEADERS;SOURCES;LINKS;PRIVATE_LINKS" ${ARGN})
  add_library(trainyard_${name} STATIC ${arg_SOURCES})
  add_library(trainyard::${name} ALIAS trainyard_${name})
  target_sources(trainyard_${name} PUBLIC FILE_SET HEADERS BASE_DIRS ${CMAKE_SOURCE_DIR}
                 FILES ${arg_HEADERS})
  target_include_directories(trainyard_${name} PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(trainyard_${name} PUBLIC ${arg_LINKS} PRIVATE ${arg_PRIVATE_LINKS})
  set_target_properties(trainyard_${name} PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON
                        POSITION_INDEPENDENT_CODE ON)
  trainyard_warnings(trainyard_${name})
endfunction()

# Adds a line to the feature table that the configuration prints.
function(trainyard_feature text)
  set_property(GLOBAL APPEND PROPERTY TRAINYARD_FEATURES "${text}")
endfunction()

# trainyard_test(name SOURCES ... LINKS ... [LABELS ...] [PROPERTIES ...]): a GoogleTest executable. Each
# of its tests takes two of the places that scripts/test gives to ctest.
function(trainyard_test name)
  cmake_parse_arguments(arg "" "" "SOURCES;LINKS;LABELS;PROPERTIES" ${ARGN})
  if(NOT arg_LABELS)
    set(arg_LABELS unit)
  endif()
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_LINKS} GTest::gtest_main)
  trainyard_warnings(${name})
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST
    PROPERTIES LABELS "${arg_LABELS}" PROCESSORS 2 ${arg_PROPERTIES})
endfunction()
