# SPDX-License-Identifier: Apache-2.0
#
# The trainer library and its program. Files that include torch take long to compile: they share a
# precompiled header.
find_package(Torch REQUIRED)
find_package(MPI REQUIRED COMPONENTS CXX)
find_package(OpenCV REQUIRED COMPONENTS core imgproc imgcodecs)
find_package(Threads REQUIRED)
