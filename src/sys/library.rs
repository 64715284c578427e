//! Libraries that are loaded at run time: neither a header nor a library is needed to build.

/// Declares a library's calls and how to load them. Those under `optional` are `None` where the library is too old to have them.
macro_rules! library {
    (
        $(#[$doc:meta])* $name:ident from $file:literal {
            $($call:ident: fn($($argument:ty),*) $(-> $result:ty)?;)+
        } $(optional {
            $($late:ident: fn($($late_argument:ty),*) $(-> $late_result:ty)?;)+
        })?
    ) => {
        $(#[$doc])*
        pub(super) struct $name {
            $(pub(super) $call: unsafe extern "C" fn($($argument),*) $(-> $result)?,)+
            $($(pub(super) $late: Option<unsafe extern "C" fn($($late_argument),*) $(-> $late_result)?>,)+)?
            // After the calls, which are good for as long as it is loaded.
            _library: ::libloading::Library,
        }

        impl $name {
            pub(super) fn load() -> Result<Self, ::libloading::Error> {
                // SAFETY: the libraries that we name do nothing when they are loaded that could harm others.
                let library = unsafe { ::libloading::Library::new($file) }?;
                $(
                    // SAFETY: this is the type that the library's header declares.
                    let $call = unsafe {
                        *library.get::<unsafe extern "C" fn($($argument),*) $(-> $result)?>(concat!(stringify!($call), "\0").as_bytes())?
                    };
                )+
                $($(
                    // SAFETY: as above.
                    let $late = unsafe {
                        library.get::<unsafe extern "C" fn($($late_argument),*) $(-> $late_result)?>(concat!(stringify!($late), "\0").as_bytes())
                    }
                    .ok()
                    .map(|call| *call);
                )+)?
                Ok($name { $($call,)+ $($($late,)+)? _library: library })
            }
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    };
}

pub(super) use library;
